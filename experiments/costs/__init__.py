"""Published FLOPs and sizes of sparse networks beside those counted here."""
