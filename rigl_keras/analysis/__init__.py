"""Why sparse training works: models, weights and masks in, arrays out."""
