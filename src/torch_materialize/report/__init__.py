"""From records and events to what a person reads."""
