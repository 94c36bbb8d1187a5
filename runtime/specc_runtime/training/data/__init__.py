"""What `data` and `val` of a train section name, as columns that give the rows of a batch."""
