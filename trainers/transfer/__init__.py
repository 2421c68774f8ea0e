"""What a frozen network's features are worth: linear evaluation."""
