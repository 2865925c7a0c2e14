"""The top floor: the recipe, the stages and their order, the report, the command line."""
