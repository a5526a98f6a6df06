package prompt

import "testing"

func TestGuessOfDetectIntent(t *testing.T) {
	for message, want := range map[string]string{
		"make a snake game": "edit", "show the score": "edit", "add a howitzer": "edit", "make him glow when hit": "edit", "": "edit",
		"もっと速くして": "edit", "敵を増やして": "edit", "どうぶつの森みたいにして": "edit", "なにか敵を追加して": "edit", "スコアを表示して": "edit",
		"undo": "restore", "Please UNDO that": "restore", "revert to the previous version": "restore", "can you restore it?": "restore",
		"元に戻して": "restore", "前のバージョンに戻してください": "restore", "さっきの変更を取り消して": "restore", "もとに戻して": "restore", "復元": "restore",
		"what does the star do": "chat", "How do I play": "chat", "is it multiplayer": "chat", "can you explain?": "chat", "why is it so fast": "chat",
		"どうやって遊ぶの": "chat", "操作方法を教えて": "chat", "これは何ですか": "chat", "速いですか？": "chat", "なぜ死ぬの": "chat", "tell me about the game": "chat",
	} {
		for _, name := range []string{"detect_intent", "v2_detect_intent"} {
			if got := shipped()[name].failure.guess.word(message); got != want {
				t.Errorf("%s %q: %s, want %s", name, message, got, want)
			}
		}
	}
}
