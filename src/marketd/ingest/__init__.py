"""From "a provider said" to "we accept": pure state machines over columns, without sockets, tasks or clocks."""
