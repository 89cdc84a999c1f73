"""Step 0: the look at the server before anything is changed, and the rules that judge it."""
