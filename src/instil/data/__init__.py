"""Sources, cleaning, records, prompts, tokens and batches. Heavy libraries load where they are used."""
