"""Taking trials: order, one trial from request to removal, growth, and the run around them."""
