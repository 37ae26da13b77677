"""A CPU host for verl: laptops and CI. Nothing here runs unless ``VERL_PLATFORM=cpu``."""
