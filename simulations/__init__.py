"""The load side: traces, schedules and the live load generator."""
