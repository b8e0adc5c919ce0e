"""The one training loop, its windows, schedules and optimisers."""
