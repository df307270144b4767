"""What of other libraries is measured, made as their documentation has it."""
