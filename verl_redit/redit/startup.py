def problems(config): return []
