"""What a guarded call costs."""
