"""What an exposure makes public, and what a change of it does, in words for people."""
