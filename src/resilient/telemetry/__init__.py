"""What users see: events, metrics and health; all of it read from the engine, never written to."""
