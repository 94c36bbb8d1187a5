"""`specc diff`: what is different between two models, and what that makes of a checkpoint of the first."""
