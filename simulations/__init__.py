"""The load side: traces, schedules, the live load generator, and the system on virtual time."""
