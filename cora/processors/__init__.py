"""What turns panoramas and text into model input."""
