"""Who owns what: the rule that gives each row, key or block its rank."""
