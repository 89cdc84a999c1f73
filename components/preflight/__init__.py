"""Step 0: reading the server before anything is changed, and the rules that judge the result."""
