"""Latest values, subscriptions, conflation, slow clients: accepted rows in, (client, bytes) out. No HTTP."""
