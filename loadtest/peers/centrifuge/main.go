// A peer of the benchmarks: a Centrifuge node (the library that Centrifugo is made of) with its own memory
// broker, in one process. Clients subscribe and publish as they like; POST /publish?channel=C sends the JSON
// body to a channel.
//
// usage: centrifugepeer PORT PING_SECONDS
package main

import (
	"context"
	"io"
	"log"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/centrifugal/centrifuge"
)

func newNode(ping time.Duration) *centrifuge.Node {
	node, err := centrifuge.New(centrifuge.Config{})
	if err != nil {
		log.Fatal(err)
	}
	node.OnConnecting(func(context.Context, centrifuge.ConnectEvent) (centrifuge.ConnectReply, error) {
		return centrifuge.ConnectReply{
			Credentials:    &centrifuge.Credentials{},
			PingPongConfig: &centrifuge.PingPongConfig{PingInterval: ping, PongTimeout: ping / 2},
		}, nil
	})
	node.OnConnect(func(client *centrifuge.Client) {
		client.OnSubscribe(func(_ centrifuge.SubscribeEvent, answer centrifuge.SubscribeCallback) {
			answer(centrifuge.SubscribeReply{}, nil)
		})
		client.OnPublish(func(_ centrifuge.PublishEvent, answer centrifuge.PublishCallback) {
			answer(centrifuge.PublishReply{}, nil)
		})
	})
	return node
}

func publish(node *centrifuge.Node) http.HandlerFunc {
	return func(response http.ResponseWriter, request *http.Request) {
		body, err := io.ReadAll(request.Body)
		if err == nil {
			_, err = node.Publish(request.URL.Query().Get("channel"), body)
		}
		if err != nil {
			http.Error(response, err.Error(), http.StatusInternalServerError)
		}
	}
}

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: centrifugepeer PORT PING_SECONDS")
	}
	seconds, err := strconv.Atoi(os.Args[2])
	if err != nil || seconds < 1 {
		log.Fatalf("PING_SECONDS is %q, which is no number of seconds", os.Args[2])
	}
	node := newNode(time.Duration(seconds) * time.Second)
	if err := node.Run(); err != nil {
		log.Fatal(err)
	}
	everyone := func(*http.Request) bool { return true }
	http.Handle("/ws", centrifuge.NewWebsocketHandler(node, centrifuge.WebsocketConfig{CheckOrigin: everyone}))
	http.HandleFunc("/publish", publish(node))
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Args[1], nil))
}
