"""What `specc view` shows of a model: the whole picture or one part of it, with what its nodes cost."""
