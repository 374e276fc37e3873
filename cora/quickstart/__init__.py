"""The quickstart: makes its own panoramas and towers, trains, exports and evaluates, without a network."""
