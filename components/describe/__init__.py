"""What an exposure makes public, and what a change to it does, in words for people."""
