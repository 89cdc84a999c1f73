"""What is known of devices and keys, apart from the resources that handle them."""
