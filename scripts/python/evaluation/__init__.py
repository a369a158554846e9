"""Text in and out of a trained model, and multiple choice scored by likelihood."""
