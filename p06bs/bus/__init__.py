"""How documents travel: the codec, the document log, the publisher and the follower."""
