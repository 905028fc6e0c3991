"""Reading, making and describing images and videos; knows no model."""
