"""One HTML file about a model: source beside the tree of blocks, picture, cost, proof, training. `page` writes it."""
