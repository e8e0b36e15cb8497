"""The planner's rules, one file per concern. Pure: (world, diagnosis) -> an action, a wait, or None for "not mine"."""
