"""The demo: a task, a tiny model, stock GRPO and GRPO with dithering through verl's own entry point, and a report."""
