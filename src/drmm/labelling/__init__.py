"""Labels from a person: where they are kept, which pictures are asked for, and what is learned in between."""
