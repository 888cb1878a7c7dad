"""troupe: your own text in, a judged, registered and promoted small language model out."""
