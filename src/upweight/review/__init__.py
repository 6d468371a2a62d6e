"""The label-review page: suspicious rows one by one, decisions by keyboard, a journal that loses none of them."""
