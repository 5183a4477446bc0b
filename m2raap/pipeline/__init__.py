"""Recipes and runs: the recipe, the plan of its stage folders, its cost, the run itself, and the commands that inspect it."""
