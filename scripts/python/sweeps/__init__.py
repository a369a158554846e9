"""`meristem sweep loops|shots|sft|cooldown`: one question asked of a row of settings, ending in one table."""
