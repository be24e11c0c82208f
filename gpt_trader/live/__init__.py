"""The desk: feed to features to prediction to sizing to orders."""
