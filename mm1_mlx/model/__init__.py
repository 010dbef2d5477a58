"""Arrays in, arrays out: image encoder, connector, decoder, and MM1 which joins them."""
