"""Files: observations in, results out."""
