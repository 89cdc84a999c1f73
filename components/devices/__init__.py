"""What is known about devices and keys, apart from the resources that handle them."""
