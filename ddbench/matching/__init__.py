"""Mathematics that several methods share: what is sampled, what is matched, and how real images are selected."""
