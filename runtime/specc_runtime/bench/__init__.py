"""`specc bench`: how fast a build runs over backends, and which lines of its spec take the time."""
