package main

func generateAVX2() {
	quantizeAVX2()
}
