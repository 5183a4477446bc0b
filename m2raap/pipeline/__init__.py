"""A recipe carried out: what it says, which folders it needs, what it will cost and did cost, how far it is."""
