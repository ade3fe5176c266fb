"""What one trial does: candidate -> migrate -> evaluate -> result."""
