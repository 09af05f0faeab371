"""What stands before Tiled's routes: who may knock, how often, how loud, and on which doors."""
