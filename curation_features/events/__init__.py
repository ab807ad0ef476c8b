"""`features.completed` events: journal, outbox and webhook."""
