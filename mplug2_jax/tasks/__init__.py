"""One task = the modules it uses + loss + prediction."""
