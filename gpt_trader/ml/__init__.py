"""Research to production: features, labels, splits, training, registry, prediction."""
