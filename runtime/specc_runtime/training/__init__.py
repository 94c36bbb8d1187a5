"""`train` sections, run: data, losses, optimisers of torch, and Lightning's `Trainer` around the emitted module.

Importing a module of this package loads neither torch nor Lightning before something is trained.
"""
