"""The closed loop: acceptance laws, the engine, closed forms, repeated runs, grids of points."""
