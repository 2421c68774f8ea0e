"""A local web page that shows the views of one's own images while a pipeline is typed."""
